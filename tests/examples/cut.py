"""A proxy that loses one response."""

import socket
import threading


class Cut:
    """Forwards connections to a port until a response contains these bytes: that one is lost, with its connection."""

    def __init__(self, port, lost):
        self.target, self.lost = port, lost
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.was_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, is_response in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, sink, is_response), daemon=True).start()

    def _forward(self, source, sink, is_response):
        try:
            while data := source.recv(65536):
                if is_response and not self.was_cut and self.lost in data:
                    self.was_cut = True
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
