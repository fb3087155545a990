"""The running daemon: ports plugged into the engine, started, watched and stopped in order."""
