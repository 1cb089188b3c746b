"""A reward server: `python reward_server.py`, then `proxtune ppo ppo.yaml reward.remote=[http://localhost:8000/brevity]`."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Brevity(BaseHTTPRequestHandler):
    """0 for an empty answer, −1 for one of a hundred characters."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"scores": [-len(response) / 100 for response in asked["responses"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Up to eight requests come at once; with the default queue of 5 some would wait a second."""

    request_queue_size = 64


if __name__ == "__main__":
    Server(("127.0.0.1", 8000), Brevity).serve_forever()
