"""The image, the compose file and the chart: read, rendered and checked, since no container engine runs here."""
