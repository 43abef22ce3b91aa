"""The Timeline in lines."""
