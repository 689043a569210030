"""The wire format and the state of a conversation. Pure: bytes in, values out."""
