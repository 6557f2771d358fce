"""Model files: what there is (catalogue), where bytes come from (sources), what is here (store)."""
