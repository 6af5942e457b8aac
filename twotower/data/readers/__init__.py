"""One file a raw format; each delivers an events frame in schema's column names."""
