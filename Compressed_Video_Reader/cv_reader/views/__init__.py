"""Pictures and tables of what is kept: panels, charts, statistics, comparisons."""
