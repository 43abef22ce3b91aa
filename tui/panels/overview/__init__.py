"""The Overview in lines."""
