"""The faces: what clients and operators reach over HTTP."""
