# Sourced: where everything of a checkout is when the Make targets run it. The table stands in docs/etcd_integration.md.
#
#   broker N     port 50049 + 2N (50051, 50053, 50055)      admin + 10     data/brokerN, the same in every mode
#   sentinel N   port 50050 + 2N (50052, 50054, 50056)      admin + 10     a folder for each mode
#   etcd N       ports 2379 and 2380, for N = 2, 3 with N before them (22379, 22380): external and embedded alike
#
# Modes: traditional, etcd (external), embedded, and the clusters of three, etcd-cluster and embedded-cluster.

sentinel_port=${SENTINEL_PORT:-50052}
etcd_prefix=${ETCD_PREFIX:-/goulette}

sentinel_port_of() { if [ "$1" = 1 ]; then echo "$sentinel_port"; else echo $((50050 + 2 * $1)); fi; }
etcd_port_of() { if [ "$1" = 1 ]; then echo "${ETCD_PORT:-2379}"; else echo "${1}2379"; fi; }
etcd_peer_port_of() { if [ "$1" = 1 ]; then echo "${ETCD_PEER_PORT:-2380}"; else echo "${1}2380"; fi; }

# The folder of what belongs to one mode alone.
folder_of() {
  case $1 in
    traditional) echo data ;;
    *) echo "data/$1" ;;
  esac
}

# One id for all sentinels of a checkout, whichever mode they run in, so that brokers follow the one that runs. A checkout
# that has brokers already keeps theirs.
cluster_id() {
  local found
  if [ ! -s data/cluster_id ]; then
    mkdir -p data
    found=$(sed -n 's/.*"cluster_id" *: *"\([0-9a-f]\{32\}\)".*/\1/p' data/*/broker.json 2> /dev/null | head -n 1)
    [ -n "$found" ] || found=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    echo "$found" > data/cluster_id.new
    mv data/cluster_id.new data/cluster_id
  fi
  cat data/cluster_id
}

# The flags of sentinel NUMBER called ID in MODE, one a line.
sentinel_flags() {
  local mode=$1 number=$2 id=$3 folder endpoints member members=
  folder=$(folder_of "$mode")
  printf '%s\n' -cluster-id "$(cluster_id)" -data "$folder/sentinel_$id" -etcd-prefix "$etcd_prefix"
  case $mode in
    traditional) echo -enable-embedded-etcd=false ;;
    etcd | etcd-cluster)
      endpoints=${ETCD_ENDPOINTS:-127.0.0.1:$(etcd_port_of 1)}
      if [ "$mode" = etcd-cluster ] && [ -z "${ETCD_ENDPOINTS:-}" ]; then
        endpoints=$endpoints,127.0.0.1:$(etcd_port_of 2),127.0.0.1:$(etcd_port_of 3)
      fi
      printf '%s\n' -enable-embedded-etcd=false -etcd-endpoints "$endpoints"
      ;;
    embedded | embedded-cluster)
      printf '%s\n' -etcd-port "$(etcd_port_of "$number")" -etcd-peer-port "$(etcd_peer_port_of "$number")" \
        -etcd-data-dir "$folder/$id.etcd"
      if [ "$mode" = embedded-cluster ]; then
        for member in 1 2 3; do
          members=$members,sentinel$member=http://127.0.0.1:$(etcd_peer_port_of $member)
        done
        printf '%s\n' -etcd-initial-cluster "${members#,}"
      fi
      ;;
    *) echo "no mode $mode" >&2; return 2 ;;
  esac
}
