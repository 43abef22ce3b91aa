"""The dashboard's screens: each is layout and keys; what is drawn comes from rankdeck.tui.widgets."""
