"""The report of a run: what its directory holds, made into a document, written as HTML, Markdown, CSV and JSON.

`source` reads the run; `run` puts the `document` together from the sections of `over_time`, `sweep`, `scaling`,
`answers`, `measured`, `settings` and `compare`; `plot` is what a chart shows and `chart` draws it; `html`, `markdown`
and `tables` turn all of it into text, and `write` writes the files.
"""
