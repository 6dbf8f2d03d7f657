package main

import (
	"context"
	"errors"
)

func serveStub(_ context.Context, _ service) error { return errors.New("not built yet") }
