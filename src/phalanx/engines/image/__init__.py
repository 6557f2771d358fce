"""Images: reading headers, decoding, geometry, quality and encoding. Pure: bytes and arrays in, bytes and arrays out."""
