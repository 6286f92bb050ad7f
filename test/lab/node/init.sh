# Process 1 of a node, on the node's own root: the network, the services, and the reaping of orphans.

# The power switch moves eth0 in and then says so; behind that there is nothing more to hear or to tell it.
read -r _
exec </dev/null >&2

if [ ! -e /etc/lab-node ]; then
  # The first boot. What the host's own daemons keep is not the node's.
  rm -rf /var/lib/corosync/* /var/lib/pacemaker/*/* /var/lib/libvirt/qemu/* /var/log/libvirt /var/log/corosync \
    /var/log/pacemaker /etc/libvirt/qemu/*.xml /etc/libvirt/qemu/autostart /etc/libvirt/qemu/networks/autostart
  mkdir -p /var/log/libvirt /var/log/corosync
  install -d -o hacluster -g haclient -m 770 /var/log/pacemaker 2>/dev/null || mkdir -p /var/log/pacemaker
  cp -r /run/lab/files/. /
  chown -R hacluster:haclient /var/lib/pacemaker/cib 2>/dev/null
  chmod 600 /var/lib/pacemaker/cib/cib.xml
  : >/etc/lab-node
fi

ip -batch - <<EOF
link set lo up
link add br0 type bridge
link set eth0 master br0 up
link set br0 up
address add $LAB_ADDRESS/24 dev br0
EOF

/usr/bin/python3 -IS "${LAB_INIT%/*}/syslog.py" &
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -S /dev/log ] && break
  sleep 0.02
done
services=$LAB_SERVICES
for variable in ${!LAB_*}; do
  unset "$variable"
done
for service in $services; do
  systemctl start "$service"
done
: >/run/lab/ready

# bash reaps every child, adopted ones too, while it waits.
while :; do
  sleep 1000000 &
  wait $!
done
