"""Clients of engines: HTTP only, no SGLang."""
