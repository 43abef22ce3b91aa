"""The dashboard's screens and dialogs: layout and keys; what they draw comes from rankdeck.tui.widgets."""
