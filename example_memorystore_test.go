package kstage_test

import (
	"context"
	"fmt"
	"time"

	"github.com/kstage/kstage"
)

func ExampleMemoryDedupeStore() {
	ctx := context.Background()
	store := kstage.NewMemoryDedupeStore(24*time.Hour, 1_000_000)

	claim, err := store.Claim(ctx, "order-17", 15*time.Second)
	fmt.Println(claim.State, err)
	again, err := store.Claim(ctx, "order-17", 15*time.Second)
	fmt.Println(again.State, err)

	// The handler has returned nil.
	fmt.Println(store.Confirm(ctx, claim))
	again, err = store.Claim(ctx, "order-17", 15*time.Second)
	fmt.Println(again.State, err)
	fmt.Println(store.Evicted())
	// Output:
	// new <nil>
	// in-progress <nil>
	// <nil>
	// done <nil>
	// 0
}
