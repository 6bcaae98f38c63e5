"""How fast PREFINE is: measurements, and the page that is written from them."""
