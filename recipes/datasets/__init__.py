"""Data that recipes name: digits that ship in a wheel, drawn and real road signs."""
