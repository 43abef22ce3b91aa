"""The application: the screens in one terminal, and the run that it follows."""
