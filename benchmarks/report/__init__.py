"""Write the pages and figures from the records."""
