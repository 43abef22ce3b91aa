"""One run: its ranks launched and fed, its knobs, its socket, its journal."""
