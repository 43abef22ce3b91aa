"""A run's dashboard in browsers: a server, and the view that it starts for each of them."""
