"""Self-contained HTML pages: frame, tables, charts."""
