"""Parts of offline pages: templates, charts and their axes."""
