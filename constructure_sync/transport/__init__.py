"""The only toucher of sockets: admission at the upgrade, frames, back-pressure, keepalive, drain."""
