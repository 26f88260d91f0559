#!/usr/bin/env bash
# A real Apache Kafka for tests: KRaft, 1 to 9 nodes (broker and controller in one), on loopback, from Maven jars.
# See README.md and the usage text below.
set -euo pipefail

usage() {
	cat <<-'TEXT'
		usage: kafka.sh [OPTION...] COMMAND

		  up [N]              start N nodes (default: as in the data, else 1), print the bootstrap addresses when ready
		  down [--wipe]       stop all nodes [and delete the data]
		  status              the addresses, and each node with its pid and memory
		  stop I              stop node I in order (SIGTERM)
		  kill I              crash node I (SIGKILL)
		  start I             start node I again on its data, wait until it is ready
		  restart-rolling     stop and start one node after the other, with full replication in between
		  tool [NAME ARG...]  run a console tool of Kafka: topics, console-producer ...; without NAME list them

		  -d DIR    data and settings, default kafka-data in the root of the repository
		  -h        this text

		at "up", remembered in DIR until "down --wipe":
		  -p PORT   node I listens on PORT+I, its controller on PORT+10+I, SASL_SSL on PORT+20+I;
		            default: free ports, found by trying
		  -m HEAP   heap of a node, default 256m (128m is enough)
		  -s        a second listener, SASL_SSL, and ACLs (see secure.properties)
		  -c K=V    one more broker property; may be repeated
		  -j FLAGS  JVM flags instead of "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
	TEXT
}

# text...: a message for the reader; stdout is for results only
note() { echo "kafka.sh: $*" >&2; }

# text...: the message, then the end
die() { note "$@"; exit 1; }

# ---------------------------------------------------------------------------------------------------- settings

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lib=$here/lib
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
dir=$here/../../kafka-data
ready_seconds=120
stop_seconds=30

# What the command line says; empty means nothing.
opt_port="" opt_heap="" opt_secure="" opt_extra="" opt_jvm=""

# What DIR/settings says; see load_settings and save_settings.
nodes="" port="" fixed_port="" heap=256m secure="" extra="" jvm="-XX:+UseSerialGC -XX:TieredStopAtLevel=1"

# Nodes started by this run that are not ready yet: stopped again if the run fails.
started=()

# Set while "up" has written files and is not done.
unfinished=""

# true if the data directory holds a cluster
has_settings() { [ -f "$dir/settings" ]; }

# reads the settings of the cluster in the data directory
load_settings() {
	has_settings || die "no cluster in $dir; start one with 'up'"
	# shellcheck source=/dev/null
	. "$dir/settings"
}

# writes the settings into the data directory
save_settings() {
	local name
	for name in nodes port fixed_port heap secure extra jvm; do
		printf '%s=%q\n' "$name" "${!name}"
	done >"$dir/settings.new"
	mv "$dir/settings.new" "$dir/settings"
}

# takes over what the command line says
apply_options() {
	[ -z "$opt_port" ] || { port=$opt_port fixed_port=1; }
	heap=${opt_heap:-$heap}
	secure=${opt_secure:-$secure}
	extra=${opt_extra:-$extra}
	jvm=${opt_jvm:-$jvm}
}

# true if the command line asks for something else than the settings say
options_differ() {
	[ "${opt_port:-$port}" != "$port" ] || [ "${opt_heap:-$heap}" != "$heap" ] ||
		[ "${opt_secure:-$secure}" != "$secure" ] || [ "${opt_extra:-$extra}" != "$extra" ] ||
		[ "${opt_jvm:-$jvm}" != "$jvm" ]
}

# the numbers of all nodes
all() { seq 1 "$nodes"; }

# node: fails if there is no such node
check_node() {
	[[ ${1:-} =~ ^[1-9]$ && $1 -le $nodes ]] || die "give the number of a node, 1 to $nodes"
}

# offset: the addresses of all nodes, joined with commas
addresses() {
	local i list=""
	for i in $(all); do list+="${list:+,}127.0.0.1:$((port + $1 + i))"; done
	echo "$list"
}

bootstrap() { addresses 0; }
secure_bootstrap() { addresses 20; }

# ------------------------------------------------------------------------------------------------------- ports

# port: true if something listens there
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# base node: the ports of a node
node_ports() {
	echo "$(($1 + $2))" "$(($1 + 10 + $2))"
	[ -z "$secure" ] || echo "$(($1 + 20 + $2))"
}

# base: prints the first taken port of the cluster, fails if all are free
first_taken() {
	local i p
	for i in $(all); do
		for p in $(node_ports "$1" "$i"); do
			if port_taken "$p"; then
				echo "$p"
				return 0
			fi
		done
	done
	return 1
}

# sets the base port: the given one, the remembered one if it is free, or a free one below the range that
# systems use for outgoing connections
choose_port() {
	local p attempt
	if [ -n "$fixed_port" ]; then
		if p=$(first_taken "$port"); then die "port $p is taken; give another one with -p"; fi
		return 0
	fi
	if [ -n "$port" ] && ! first_taken "$port" >/dev/null; then return 0; fi
	for attempt in {1..100}; do
		port=$((20000 + RANDOM % 1200 * 10))
		first_taken "$port" >/dev/null || return 0
	done
	die "no free ports found in $attempt attempts; give some with -p"
}

# --------------------------------------------------------------------------------------------- what must be there

# command text: fails if the command is not there
need() { command -v "$1" >/dev/null || die "$1 not found: $2"; }

# one up or down at a time, whatever the data directory, so that they do not take ports or jars from each other
lock() {
	need flock "it is part of util-linux"
	exec 9<"${BASH_SOURCE[0]}"
	flock -w 600 9 || die "another up or down has been running for 10 minutes"
}

# fails if there is no Java 17 or later
check_java() {
	local version major
	need "$java" "Java 17 or later is needed (PATH or JAVA_HOME)"
	version=$("$java" -version 2>&1 | sed -n 's/.* version "\([^"]*\)".*/\1/p')
	major=${version#1.}
	major=${major%%[!0-9]*}
	[ "${major:-0}" -ge 17 ] || die "Java 17 or later is needed; $java is ${version:-of an unknown version}"
}

# fills lib/ if the jars of the version in pom.xml are not there
check_jars() {
	local version
	version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
	[ ! -f "$lib/kafka_2.13-$version.jar" ] || return 0
	need mvn "Maven is needed once, to get the jars of Kafka $version"
	note "getting the jars of Kafka $version with Maven"
	# into another place first: lib/ is never half full
	rm -rf "$here/target/lib"
	(cd "$here" && mvn -q -B package -Dlib="$here/target/lib") >&2 || die "Maven failed (see above)"
	rm -rf "$lib"
	mv "$here/target/lib" "$lib"
}

# ------------------------------------------------------------------------------------------------ files of a node

# node: its broker properties
node_properties() {
	local i=$1 j voters="" secure_listener="" replicas=1 min_isr=1
	for j in $(all); do voters+="${voters:+,}$j@127.0.0.1:$((port + 10 + j))"; done
	if [ -n "$secure" ]; then secure_listener=",SASL_SSL://127.0.0.1:$((port + 20 + i))"; fi
	if [ "$nodes" -ge 3 ]; then replicas=3 min_isr=2; fi
	cat <<-TEXT
		# Written by kafka.sh at every "up".
		process.roles=broker,controller
		node.id=$i
		log.dirs=$dir/node$i/data
		listeners=PLAINTEXT://127.0.0.1:$((port + i)),CONTROLLER://127.0.0.1:$((port + 10 + i))$secure_listener
		advertised.listeners=PLAINTEXT://127.0.0.1:$((port + i))$secure_listener
		listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
		inter.broker.listener.name=PLAINTEXT
		controller.listener.names=CONTROLLER
		controller.quorum.voters=$voters

		default.replication.factor=$replicas
		min.insync.replicas=$min_isr
		offsets.topic.replication.factor=$replicas
		transaction.state.log.replication.factor=$replicas
		transaction.state.log.min.isr=$min_isr
		share.coordinator.state.topic.replication.factor=$replicas
		share.coordinator.state.topic.min.isr=$min_isr

	TEXT
	cat "$here/broker.properties"
	if [ -n "$secure" ]; then
		echo
		cat "$here/secure.properties"
		echo "ssl.keystore.location=$dir/tls/broker.pem"
		echo "ssl.truststore.location=$dir/tls/ca.crt"
	fi
	printf '\n%s' "$extra"
}

# makes a certificate authority and the certificate of the nodes
make_certificates() (
	[ ! -f "$dir/tls/broker.pem" ] || return 0
	umask 077
	mkdir -p "$dir/tls"
	cd "$dir/tls"
	{
		openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kafka-test-ca -keyout ca.key -out ca.crt
		openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout broker.key -out broker.csr
		echo "subjectAltName=DNS:localhost,IP:127.0.0.1" >broker.ext
		openssl x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
			-extfile broker.ext -out broker.crt
	} >openssl.log 2>&1 || die "openssl failed, see $dir/tls/openssl.log"
	cat broker.key broker.crt ca.crt >broker.pem
)

# class argument...: runs a tool of Kafka
run_java() {
	"$java" -Xshare:auto -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
		-Dlog4j2.configurationFile="$here/log4j2-tools.properties" -cp "$lib/*" "$@"
}

# node: makes its data directory; a node that has one already is left alone
format() {
	local scram=()
	[ ! -f "$dir/node$1/data/meta.properties" ] || return 0
	if [ -n "$secure" ]; then scram=(--add-scram "SCRAM-SHA-512=[name=admin,password=admin-secret]"); fi
	run_java kafka.tools.StorageTool format -t "$(cat "$dir/cluster-id")" \
		-c "$dir/node$1/node.properties" "${scram[@]}" >"$dir/node$1/format.log" 2>&1
}

# writes all files of the cluster
prepare() {
	local i jobs=() failed=""
	unfinished=1
	mkdir -p "$dir"
	save_settings
	[ -f "$dir/cluster-id" ] || head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=' >"$dir/cluster-id"
	if [ -n "$secure" ]; then make_certificates; fi
	for i in $(all); do
		mkdir -p "$dir/node$i"
		node_properties "$i" >"$dir/node$i/node.properties"
	done
	for i in $(all); do
		format "$i" &
		jobs+=($!)
	done
	for i in $(all); do
		wait "${jobs[i - 1]}" || { failed=1 && cat "$dir/node$i/format.log" >&2; }
	done
	[ -z "$failed" ] || die "the data directories could not be made (see above)"
}

# --------------------------------------------------------------------------------------------- processes of nodes

# node: prints its pid, fails if it does not run; a pid that now belongs to another process does not count
pid() {
	local p
	p=$(cat "$dir/node$1/pid" 2>/dev/null) || return 1
	grep -qzxF -- "$dir/node$1/node.properties" "/proc/$p/cmdline" 2>/dev/null || return 1
	echo "$p"
}

# true if the node runs
runs() { pid "$1" >/dev/null; }

# true if any node runs
any_runs() {
	local i
	for i in $(all); do ! runs "$i" || return 0; done
	return 1
}

# node: starts it, does not wait until it is ready
launch() {
	local i=$1 home=$dir/node$1 p flags
	for p in $(node_ports "$port" "$i"); do
		! port_taken "$p" || die "port $p of node $i is taken"
	done
	[ ! -f "$home/server.log" ] || mv -f "$home/server.log" "$home/server.log.1"
	: >"$home/server.log"
	read -ra flags <<<"$jvm"
	started+=("$i")
	setsid "$java" -Xmx"$heap" -Xms32m "${flags[@]}" -XX:+ExitOnOutOfMemoryError \
		-Dkafka.logs.dir="$home" -Dlog4j2.configurationFile="$here/log4j2-node.properties" \
		-cp "$lib/*" kafka.Kafka "$home/node.properties" </dev/null >"$home/out.log" 2>&1 9<&- &
	p=$!
	disown
	echo "$p" >"$home/pid"
	# until the new process has become java
	until runs "$i" || ! kill -0 "$p" 2>/dev/null; do sleep 0.05; done
}

# port: true if a broker answers an ApiVersions request there
answers() {
	local bytes
	bytes=$(
		exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1"
		# size 10, key 18, version 0, correlation id 1, no client id
		printf '\0\0\0\12\0\22\0\0\0\0\0\1\377\377' >&3
		timeout 2 head -c 4 <&3 | wc -c
	) || return 1
	[ "$bytes" -eq 4 ]
}

# node: true if it has been admitted to the cluster and answers on its ports
is_ready() {
	grep -q 'Kafka Server started' "$dir/node$1/server.log" && answers "$((port + $1))" || return 1
	[ -z "$secure" ] || port_taken "$((port + 20 + $1))"
}

# node...: waits until they are ready
await_ready() {
	local i deadline=$((SECONDS + ready_seconds))
	for i; do
		until is_ready "$i"; do
			if ! runs "$i"; then
				tail -n 20 "$dir/node$i/out.log" "$dir/node$i/server.log" >&2
				die "node $i died (see above)"
			fi
			[ "$SECONDS" -lt "$deadline" ] ||
				die "node $i was not ready after $ready_seconds s, see $dir/node$i/server.log"
			sleep 0.1
		done
	done
	started=()
}

# pid: true if the process has closed its ports and files: it is gone, or a zombie that no thread is left of
is_gone() {
	local threads=("/proc/$1/task/"*)
	[ -d "/proc/$1" ] || return 0
	[ "${#threads[@]}" -le 1 ] && grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

# signal seconds node...: sends the signal to all, waits until they have ended, kills those that take longer
end_nodes() {
	local signal=$1 deadline=$((SECONDS + $2)) i p pids=()
	shift 2
	for i; do
		p=$(pid "$i") || continue
		pids[i]=$p
		kill "-$signal" "$p" 2>/dev/null || true
	done
	for i in "${!pids[@]}"; do
		while runs "$i"; do
			[ "$SECONDS" -lt "$deadline" ] || kill -KILL "${pids[i]}" 2>/dev/null || true
			sleep 0.1
		done
		until is_gone "${pids[i]}"; do sleep 0.05; done
		rm -f "$dir/node$i/pid"
	done
}

# at the end, however it comes: stops what this run has started but not brought to readiness
clean_up() {
	local status=$?
	trap '' INT TERM HUP
	if [ "${#started[@]}" -gt 0 ]; then
		note "stopping what was started: ${started[*]}"
		end_nodes TERM 3 "${started[@]}"
	fi
	[ -z "$unfinished" ] || note "the files are left in $dir, with the options given; 'down --wipe' deletes them"
	exit "$status"
}

# ---------------------------------------------------------------------------------------------------- commands

cmd_up() {
	local want=${1:-} i missing=()
	[[ -z $want || $want =~ ^[1-9]$ ]] || die "the number of nodes must be 1 to 9, not '$want'"
	lock
	if has_settings; then
		load_settings
		[ "${want:-$nodes}" = "$nodes" ] ||
			die "$dir holds a cluster of $nodes node(s), not of $want; 'down --wipe' first"
		[ "${opt_secure:-$secure}" = "$secure" ] ||
			die "$dir holds a cluster without the secure listener; 'down --wipe' first"
	else
		nodes=${want:-1}
		[ -z "$(ls -A "$dir" 2>/dev/null)" ] || die "$dir is not empty and holds no cluster; give another one with -d"
	fi
	if any_runs; then
		! options_differ || die "the cluster in $dir is up with other options; 'down' first"
	else
		check_java
		check_jars
		need setsid "it is part of util-linux"
		[ -z "$secure$opt_secure" ] || need openssl "it makes the certificates of the secure listener"
		apply_options
		choose_port
		prepare
	fi
	for i in $(all); do runs "$i" || missing+=("$i"); done
	for i in "${missing[@]}"; do launch "$i"; done
	# shellcheck disable=SC2046
	await_ready $(all)
	unfinished=""
	note "$nodes node(s) ready after $SECONDS s, data in $dir"
	bootstrap
}

cmd_down() {
	case ${1:-} in '' | --wipe) ;; *) die "down takes --wipe or nothing, not '$1'" ;; esac
	lock
	if ! has_settings; then
		note "no cluster in $dir"
		return 0
	fi
	load_settings
	# The last nodes have no quorum left to leave in order: they are killed, which does no harm to the data.
	# shellcheck disable=SC2046
	end_nodes TERM 5 $(all)
	if [ "${1:-}" = --wipe ]; then rm -rf "$dir"; fi
}

cmd_start() {
	load_settings
	check_node "${1:-}"
	if runs "$1"; then note "node $1 runs already"; else launch "$1"; fi
	await_ready "$1"
}

cmd_stop() {
	load_settings
	check_node "${1:-}"
	end_nodes TERM "$stop_seconds" "$1"
}

cmd_kill() {
	load_settings
	check_node "${1:-}"
	end_nodes KILL 5 "$1"
}

# true if every partition has all its replicas in sync
fully_replicated() {
	local list
	list=$(cmd_tool topics --describe --under-replicated-partitions 2>/dev/null) && [ -z "$list" ]
}

cmd_restart_rolling() {
	local i deadline
	load_settings
	for i in $(all); do
		end_nodes TERM "$stop_seconds" "$i"
		launch "$i"
		await_ready "$i"
		deadline=$((SECONDS + ready_seconds))
		until fully_replicated; do
			[ "$SECONDS" -lt "$deadline" ] || die "not fully replicated $ready_seconds s after the restart of node $i"
			sleep 0.5
		done
		note "node $i restarted"
	done
}

cmd_status() {
	local i p
	load_settings
	echo "data $dir"
	echo "bootstrap $(bootstrap)"
	if [ -n "$secure" ]; then
		echo "sasl-ssl $(secure_bootstrap)"
		echo "ca $dir/tls/ca.crt"
	fi
	for i in $(all); do
		if p=$(pid "$i"); then
			echo "node $i up pid $p memory $(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$p/status") MiB"
		else
			echo "node $i down"
		fi
	done
}

# The tools by the name of their script in Kafka (kafka-NAME.sh), without "org.apache.kafka.tools.".
declare -A tools=(
	[acls]=AclCommand
	[broker-api-versions]=BrokerApiVersionsCommand
	[console-consumer]=consumer.ConsoleConsumer
	[console-producer]=ConsoleProducer
	[console-share-consumer]=consumer.ConsoleShareConsumer
	[consumer-groups]=consumer.group.ConsumerGroupCommand
	[consumer-perf-test]=ConsumerPerformance
	[delete-records]=DeleteRecordsCommand
	[features]=FeatureCommand
	[get-offsets]=GetOffsetShell
	[groups]=GroupsCommand
	[leader-election]=LeaderElectionCommand
	[log-dirs]=LogDirsCommand
	[metadata-quorum]=MetadataQuorumCommand
	[producer-perf-test]=ProducerPerformance
	[reassign-partitions]=reassign.ReassignPartitionsCommand
	[share-groups]=consumer.group.ShareGroupCommand
	[topics]=TopicCommand
	[transactions]=TransactionsCommand
)

cmd_tool() {
	local name=${1:-} server=()
	if [ -z "$name" ]; then
		printf '%s\n' configs dump-log "${!tools[@]}" | sort
		return 0
	fi
	shift
	load_settings
	# another address may be given, for example that of the secure listener
	[[ " $* " == *" --bootstrap-server "* ]] || server=(--bootstrap-server "$(bootstrap)")
	case $name in
	configs) run_java kafka.admin.ConfigCommand "${server[@]}" "$@" ;;
	dump-log) run_java org.apache.kafka.tools.DumpLogSegments "$@" ;;
	*)
		[ -n "${tools[$name]:-}" ] || die "no tool '$name'; 'tool' alone lists them"
		run_java "org.apache.kafka.tools.${tools[$name]}" "${server[@]}" "$@"
		;;
	esac
}

# -------------------------------------------------------------------------------------------------- command line

while getopts d:p:m:sc:j:h option; do
	case $option in
	d) dir=$OPTARG ;;
	p)
		[[ $OPTARG =~ ^[0-9]{4,5}$ && $OPTARG -ge 1024 && $OPTARG -le 65000 ]] || die "-p takes a port, 1024 to 65000"
		opt_port=$OPTARG
		;;
	m)
		[[ $OPTARG =~ ^[0-9]+[kmgKMG]$ ]] || die "-m takes a size like 256m"
		opt_heap=$OPTARG
		;;
	s) opt_secure=1 ;;
	c)
		[[ $OPTARG == ?*=* ]] || die "-c takes KEY=VALUE"
		opt_extra+=$OPTARG$'\n'
		;;
	j) opt_jvm=$OPTARG ;;
	h)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
done
shift $((OPTIND - 1))
dir=$(realpath -m "$dir")

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

command=${1:-}
shift || true
case $command in
up) cmd_up "$@" ;;
down) cmd_down "$@" ;;
status) cmd_status ;;
stop) cmd_stop "$@" ;;
kill) cmd_kill "$@" ;;
start) cmd_start "$@" ;;
restart-rolling) cmd_restart_rolling ;;
tool) cmd_tool "$@" ;;
*)
	usage >&2
	exit 2
	;;
esac
