#!/bin/sh
# Report in one line what is missing to run the containers, and how to get it. Then write `.env` with new secrets, or add
# the secrets that a newer env.example needs. Existing lines of `.env` are never changed.
set -eu
cd "$(dirname "$0")/../.."

give_up() {
  echo "$1" >&2
  exit 1
}

# `newer 25.0.3 25`: is the first version at least the second?
newer() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

command -v docker >/dev/null ||
  give_up "Docker is missing: install it as https://docs.docker.com/engine/install says. (Without Docker: make up)"
compose=$(docker compose version --short 2>/dev/null) ||
  give_up "Docker's compose plugin is missing: install it as https://docs.docker.com/compose/install/linux says."
newer "${compose#v}" 2.23.1 ||
  give_up "Docker's compose plugin is $compose, but must be 2.23.1 or newer: https://docs.docker.com/compose/install/linux"
engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) ||
  give_up "No Docker engine answers: start it (systemctl start docker), and check that you may use it (group docker)."
newer "$engine" 25 ||
  give_up "The Docker engine is $engine, but must be 25 or newer: https://docs.docker.com/engine/install"

umask 077
is_new=$([ -e .env ] || echo yes)
touch .env
while IFS= read -r line; do
  case $line in
    *=generated)
      name=${line%%=*}
      grep -q "^$name=" .env || echo "$name=$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')" >>.env
      ;;
    *)
      [ -z "$is_new" ] || printf '%s\n' "$line" >>.env
      ;;
  esac
done <deploy/compose/env.example
[ -z "$is_new" ] || echo "generated secrets in .env; keep it as long as the volumes"
