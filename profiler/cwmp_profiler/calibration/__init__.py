"""Two meters over the same loads: readings, instrument files and the lag between clocks."""
