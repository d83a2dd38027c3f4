"""The dashboard: saved runs and attention, shown with Streamlit. Start it with `headscope dashboard`."""
