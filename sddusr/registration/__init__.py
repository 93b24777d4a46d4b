"""Registration of a tele picture to the wide picture's centre."""
