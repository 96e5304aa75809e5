"""The whole broker, driven by simulated clients in virtual time and compared with a model of the standards.

python -m tests.simulation --seed 7 --steps 200        one program
python -m tests.simulation --seconds 300               programs of one seed after the other, from a random one
python -m tests.simulation connect:5 publish:17 ...    one program, as a failure prints it
            ... --minimise --trace --without-flow-cache

Six clients of MQTT 3.1, 3.1.1 and 5 connect, subscribe, publish, answer late or at once, lose their connection,
take over, break the rules, and let time pass. After each step the broker comes to rest, and everything that
it sent has been allowed, in order, and all that it had to send.

terms.py      messages, subscriptions, sessions on paper
model.py      what the standards make of what clients do: sessions, subscriptions, retained messages, queues
deadlines.py  when something of the model ends or begins by itself
judge.py      is what the broker sent allowed, in order, and complete?
client.py     one simulated client: what it sends, what it keeps, what it still has to answer
world.py      a broker, its clients and the model; what must hold whenever the broker rests
holdings.py   what the broker holds inside, beside the model
steps.py      what clients do
program.py    programs of steps: making, running and shortening them

test_simulation.py   programs of fixed seeds, and programs that Hypothesis makes
test_flow_cache.py   every client receives the same with the flow cache and without
test_faults.py       the simulation can fail: it finds each of some faults
"""
