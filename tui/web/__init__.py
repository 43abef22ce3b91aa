"""A run's dashboard in browsers: a server, and the process that it starts for each browser."""
