"""Lightning callbacks, one a file; conf/callbacks names them."""
