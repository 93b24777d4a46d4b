"""Find a tele picture in a wide one and match its colours."""
