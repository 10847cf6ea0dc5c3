# A system of its own as far as resolving goes, in mounts that nobody else sees: /run, a bus, and the systemd-resolved that
# was unpacked into the directory named first. Says its process id when all of it runs, and ends it when it ends.
set -eu
tools=$1
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/resolve /run/stage/bus
for file in passwd group; do
    grep -v '^systemd-resolve:' "/etc/$file" >"/run/stage/$file"
done
echo 'systemd-resolve:x:996:996::/:/usr/sbin/nologin' >>/run/stage/passwd
echo 'systemd-resolve:x:996:' >>/run/stage/group
echo 'nameserver 192.0.2.53' >/run/stage/resolv.conf
# For programs, which ask systemd-resolved; it takes its own servers from the file above.
echo 'nameserver 127.0.0.53' >/run/stage/stub.conf
chown 996:996 /run/systemd/resolve
cp "$tools"/usr/share/dbus-1/system.d/*.conf /run/stage/bus
mount --bind /run/stage/passwd /etc/passwd
mount --bind /run/stage/group /etc/group
mount --bind /run/stage/resolv.conf /etc/resolv.conf
mount --bind /run/stage/bus /usr/share/dbus-1/system.d
dbus-daemon --system --nofork --nopidfile --nosyslog &
bus=$!
resolved=
trap 'kill $bus $resolved 2>/dev/null' EXIT
trap 'exit 0' TERM
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
"$tools/lib/systemd/systemd-resolved" 2>/run/stage/log &
resolved=$!
until "$tools/usr/bin/resolvectl" status >/dev/null 2>&1; do sleep 0.05; done
echo $$
wait
