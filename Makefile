.venv/bin/x: 
