"""Faces: MCP, command line. No rule about jobs lives here."""
