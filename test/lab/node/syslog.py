"""A node's syslog: writes what arrives on /dev/log to /var/log/syslog, one line each, with the time."""
import os, re, socket, time

sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sink.bind("/dev/log")
os.chmod("/dev/log", 0o666)
with open("/var/log/syslog", "a", buffering=1, errors="replace") as log:
    while True:
        text = sink.recv(65536).decode(errors="replace").strip("\0\n")
        # <priority>Mon dd hh:mm:ss tag: message. Our own time has fractions and the year.
        text = re.sub(r"^<(\d+)>(?:\w{3} [ \d]\d \d\d:\d\d:\d\d )?", r"<\1> ", text).replace("\n", "\\n")
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        log.write(f"{stamp}.{int(now % 1 * 1000):03d} {text}\n")
