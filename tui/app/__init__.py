"""The application: one terminal, the screens in it, and the run that it follows."""
