"""One patient scored by a model package, for research: a page, heat maps, and objects for the PACS."""
