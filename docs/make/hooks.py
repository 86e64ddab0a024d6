"""What MkDocs does beyond its own: root pages join the site, and no page is left out of it."""
