"""The web app in which people judge answers. It loads nothing from elsewhere and sends nothing anywhere."""

PORT = 8300
