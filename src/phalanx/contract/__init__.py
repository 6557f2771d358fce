"""The words of the API: frozen msgspec structs without behaviour. Requests refuse unknown fields; responses only grow."""
