"""The monitoring report of a period, and its forms: HTML, Markdown, tables, plots."""
