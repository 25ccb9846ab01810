// The plainest program that could stand where an agent does: it connects,
// subscribes to one subject and sends a heartbeat on another. What it takes is
// the price of Go and of a connection.
package main

import (
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

func main() {
	nc, err := nats.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	heard := make(chan *nats.Msg, 64)
	if _, err := nc.ChanSubscribe("floor.desired", heard); err != nil {
		log.Fatal(err)
	}
	beat := time.NewTicker(10 * time.Second)
	for {
		if err := nc.Publish("floor.alive", nil); err != nil {
			log.Fatal(err)
		}
		select {
		case <-heard:
		case <-beat.C:
		}
	}
}
