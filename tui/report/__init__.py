"""The report of a run: read what is there, say it as a document, write it as HTML, Markdown, CSV and JSON.

`source` reads files; `run`, `sweep`, `compare` and `measured` are pure and make a `document`; `html`, `markdown` and
`tables` write it out; `plot` is what a chart shows and `chart` draws it.
"""
