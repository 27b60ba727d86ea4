#!/bin/sh
# Whether the server answers. Nobody may ask it anything without a password: that refusal is an answer too.
case $(redis-cli -h 127.0.0.1 ping 2>&1) in
    *NOAUTH* | *PONG*) ;;
    *) exit 1 ;;
esac
