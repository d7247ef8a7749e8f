"""A telephone menu for a small company, in the three forms an app can take."""
