package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
)

func main() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := call(http.DefaultClient, os.Args[1], os.Args[2])
		if err != nil {
			panic(err)
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}
}
