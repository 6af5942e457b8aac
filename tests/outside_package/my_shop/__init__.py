"""A shop's own parts for twotower; my_shop/conf names them."""
