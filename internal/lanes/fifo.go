package lanes

// fifo is a queue that keeps its memory. Its zero value is ready.
type fifo[T any] struct {
	buf  []T
	head int
}

func (f *fifo[T]) len() int  { return len(f.buf) - f.head }
func (f *fifo[T]) front() *T { return &f.buf[f.head] }

// shrink gives back the memory of an empty queue that was long once.
func (f *fifo[T]) shrink() {
	if cap(f.buf) > 64 {
		f.buf, f.head = nil, 0
	}
}

func (f *fifo[T]) push(v T) {
	if f.head > 16 && f.head*2 > len(f.buf) && len(f.buf) == cap(f.buf) {
		n := copy(f.buf, f.buf[f.head:])
		clear(f.buf[n:])
		f.buf, f.head = f.buf[:n], 0
	}
	f.buf = append(f.buf, v)
}

func (f *fifo[T]) pop() T {
	var zero T
	v := f.buf[f.head]
	f.buf[f.head] = zero
	if f.head++; f.head == len(f.buf) {
		f.buf, f.head = f.buf[:0], 0
	}
	return v
}
