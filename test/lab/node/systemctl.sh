# systemctl of a lab node, which has no systemd: enough of it for "pcs cluster start", "crm cluster stop", and for
# units that a package under test has installed (their ExecStart is run, with the log in /var/log/UNIT.out).

enabled=/etc/lab-enabled
verb='' now='' quiet='' units=()
for argument in "$@"; do
  case $argument in
    --now) now=1 ;;
    -q | --quiet) quiet=1 ;;
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$argument; else units+=("${argument%.service}"); fi ;;
  esac
done

unit_file() {
  local directory
  for directory in /etc /run /usr/local/lib /usr/lib /lib; do
    if [ -f "$directory/systemd/system/$1.service" ]; then
      echo "$directory/systemd/system/$1.service"
      return
    fi
  done
  return 1
}

# The main pid of a unit that runs.
pid_of() {
  case $1 in
    virtlogd | libvirtd | corosync) pidof -s "$1" ;;
    pacemaker) pidof -s pacemakerd ;;
    *)
      local pid
      read -r pid 2>/dev/null <"/run/lab/$1.pid" && kill -0 "$pid" 2>/dev/null && echo "$pid"
      ;;
  esac
}

in_background() { # UNIT COMMAND...
  local unit=$1
  shift
  setsid "$@" </dev/null >>"/var/log/$unit.out" 2>&1 &
  echo $! >"/run/lab/$unit.pid"
}

start() {
  pid_of "$1" >/dev/null && return
  case $1 in
    virtlogd) virtlogd -d ;;
    libvirtd)
      start virtlogd
      libvirtd -d -l
      ;;
    corosync) corosync ;;
    pacemaker)
      start corosync || return
      set -a
      [ -r /etc/default/pacemaker ] && . /etc/default/pacemaker
      set +a
      in_background pacemaker pacemakerd
      ;;
    *)
      local file key value command=''
      if ! file=$(unit_file "$1"); then
        echo "Failed to start $1.service: Unit $1.service not found." >&2
        return 5
      fi
      while IFS='=' read -r key value; do
        case $key in
          ExecStart) command=${value#[-@:+!]} ;;
          Environment) eval "export $value" ;;
        esac
      done <"$file"
      eval "in_background $1 $command"
      ;;
  esac
}

stop() {
  [ "$1" = corosync ] && stop pacemaker
  local pid
  pid=$(pid_of "$1") || return 0
  kill "$pid"
  # systemd's default patience.
  for ((i = 0; i < 900; i++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid"
}

say() { [ -n "$quiet" ] || echo "$1"; }

result=0
for unit in "${units[@]}"; do
  case $verb in
    start) start "$unit" || result=$? ;;
    stop) stop "$unit" ;;
    restart | reload-or-restart) stop "$unit"; start "$unit" || result=$? ;;
    try-restart) if pid_of "$unit" >/dev/null; then stop "$unit"; start "$unit" || result=$?; fi ;;
    kill) kill -TERM "$(pid_of "$unit")" ;;
    is-active) if pid_of "$unit" >/dev/null; then say active; else say inactive; result=3; fi ;;
    status)
      if pid=$(pid_of "$unit"); then say "$unit.service: active (running), main pid $pid"; else say "$unit.service: inactive (dead)"; result=3; fi
      ;;
    is-enabled) if grep -qx "$unit" $enabled 2>/dev/null; then say enabled; else say disabled; result=1; fi ;;
    enable)
      grep -qx "$unit" $enabled 2>/dev/null || echo "$unit" >>$enabled
      [ -z "$now" ] || start "$unit" || result=$?
      ;;
    disable)
      [ ! -e $enabled ] || sed -i "/^$unit\$/d" $enabled
      [ -z "$now" ] || stop "$unit"
      ;;
  esac
done
if [ "$verb" = list-unit-files ]; then
  for unit in corosync pacemaker libvirtd virtlogd; do
    echo "$unit.service disabled enabled"
  done
fi
exit $result
